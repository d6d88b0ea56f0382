-- phase: expand
-- What people say that a search should find: the gate of a change of models compares both by it.

create table backstay.judgement (
    tenant_id  uuid  not null,
    collection text  not null,
    query      text  not null check (length(query) between 1 and 500),
    relevant   jsonb not null,
    primary key (tenant_id, collection, query),
    foreign key (tenant_id, collection) references backstay.collection (tenant_id, name) on delete cascade
);
comment on column backstay.judgement.relevant is 'Ids of documents, each with its grade from 1 to 10.';
select backstay.fence('judgement');
