-- phase: expand
-- Kinds of vector indexes: which one is wished for, which one stands, and how its build goes.

alter table backstay.space
    add column index_wish text not null default 'auto'
        check (index_wish in ('auto', 'none', 'hnsw', 'ivfflat', 'binary')),
    add column index_kind text check (index_kind in ('hnsw', 'ivfflat', 'binary')),
    add column index_lists int,
    add column index_rows bigint,
    add column index_seconds real;
comment on column backstay.space.index_kind is 'What stands and is searched; null: nothing.';
comment on column backstay.space.index_lists is 'Lists of an ivfflat index.';
comment on column backstay.space.index_rows is 'About how many vectors there were when it was built, in index_seconds.';
update backstay.space set index_kind = 'hnsw' where indexed_at is not null;

-- An index is not built in the middle of a backfill: vectors go into a table without one many times as fast.
alter table backstay.collection_space add column filled_at timestamptz;
comment on column backstay.collection_space.filled_at is 'When the backfill had taken up every chunk.';
update backstay.collection_space set filled_at = since;

-- One row for a build that is under way, or that failed last. Who builds writes it about once a second.
create table backstay.space_build (
    space_id   bigint      not null primary key references backstay.space (id),
    kind       text        not null,
    phase      text        not null,
    done       bigint      not null default 0,
    total      bigint      not null default 0,
    started_at timestamptz not null,
    seen_at    timestamptz not null,
    error      text
);
comment on column backstay.space_build.done is 'Blocks of the table that are in the index, of `total`.';
alter table backstay.space_build enable row level security;
alter table backstay.space_build force row level security;
create policy used on backstay.space_build for select to backstay_app
    using (exists (select from backstay.space s where s.id = space_id));
create policy system on backstay.space_build to backstay_system using (true) with check (true);
create policy owner on backstay.space_build to backstay_owner using (true) with check (true);
grant select on backstay.space_build to backstay_app;
grant select, insert, update, delete on backstay.space_build to backstay_system;
