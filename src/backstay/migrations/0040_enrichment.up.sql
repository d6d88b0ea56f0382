-- phase: expand
-- Enrichment: fields of documents that a model fills in the background.

create table backstay.enrichment (
    tenant_id  uuid not null,
    collection text not null,
    field      text not null,
    model      text not null,
    prompt     text not null,
    max_tokens int not null check (max_tokens between 1 and 100000),
    revision   bytea not null,
    created_at timestamptz not null,
    primary key (tenant_id, collection, field),
    foreign key (tenant_id, collection) references backstay.collection (tenant_id, name) on delete cascade
);
comment on column backstay.enrichment.revision is 'Hash of what decides the answer: model, prompt, limit.';
select backstay.fence('enrichment');

-- What a model has made, or is to make, of a document. `source` is the hash of what it was asked: an answer to another
-- question is never written.
create table backstay.enriched (
    tenant_id  uuid not null,
    collection text not null,
    content_id text not null,
    field      text not null,
    source     bytea not null,
    state      text not null check (state in ('waiting', 'done', 'failed')),
    value      text check ((state = 'done') = (value is not null)),
    error      text check ((state = 'failed') = (error is not null)),
    cost       numeric,
    since      timestamptz not null,
    taken_by   uuid,
    taken_at   timestamptz,
    primary key (tenant_id, collection, content_id, field),
    foreign key (tenant_id, collection, content_id) references backstay.content (tenant_id, collection, id)
        on delete cascade,
    foreign key (tenant_id, collection, field) references backstay.enrichment (tenant_id, collection, field)
        on delete cascade
);
comment on column backstay.enriched.taken_by is 'The job that asks the model about it.';
create index enriched_unfinished on backstay.enriched (tenant_id, collection, field, state) where state <> 'done';
create index enriched_field on backstay.enriched (tenant_id, collection, field);
select backstay.fence('enriched');
