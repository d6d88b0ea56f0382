-- phase: expand
-- Posting lists of text search: sets of chunks, and where in them each term occurs.

alter table backstay.collection add column gathered boolean not null default false;
comment on column backstay.collection.gathered is 'Every chunk is named by a segment or a delta.';

-- Null from a release that does not know of segments: the next fold looks for the chunks that nothing names.
alter table backstay.bm_delta add column added uuid[];
comment on column backstay.bm_delta.added is 'The chunks that the write added; null: not said.';

create table backstay.bm_segment (
    tenant_id  uuid    not null,
    id         bigint  generated always as identity,
    collection text    not null,
    chunks     int     not null check (chunks > 0),
    listed     boolean not null,
    ids        bytea   not null,
    primary key (tenant_id, id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on column backstay.bm_segment.listed is 'Whether bm_posting has its lists; else its chunks are looked at one by one.';
comment on column backstay.bm_segment.ids is 'Ids of its chunks, 16 bytes each; some may be gone.';
create index bm_segment_collection on backstay.bm_segment (tenant_id, collection);
-- Single ids are read out of it: of a value that is not compressed only that piece is read.
alter table backstay.bm_segment alter column ids set storage external;
select backstay.fence('bm_segment');

create table backstay.bm_posting (
    tenant_id  uuid   not null,
    segment_id bigint not null,
    term       int    not null,
    places     bytea,
    counts     bytea  not null,
    primary key (tenant_id, segment_id, term)
);
comment on column backstay.bm_posting.term is 'A term''s number; 0 is none: its counts are the lengths of the chunks, two bytes each.';
comment on column backstay.bm_posting.places is 'Places in the segment, two bytes each; null: counts has a byte for every place.';
comment on column backstay.bm_posting.counts is 'How often the term occurs, a byte each; 255: that often or more.';
-- Read on every search: unpacking would take longer than reading.
alter table backstay.bm_posting alter column places set storage external, alter column counts set storage external;
select backstay.fence('bm_posting');
