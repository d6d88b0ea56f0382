-- phase: expand
-- Changing the embedding model: the spaces that a collection has beside the one that is searched.

-- No rows for a collection that never changed its model. `collection.space_id` alone says whose vectors are searched;
-- writers give every chunk a vector in that one and in those that are `building` or on `standby`.
create table backstay.collection_space (
    tenant_id  uuid        not null,
    collection text        not null,
    space_id   bigint      not null references backstay.space (id),
    state      text        not null check (state in ('building', 'active', 'standby', 'retired')),
    since      timestamptz not null,
    primary key (tenant_id, collection, space_id),
    foreign key (tenant_id, collection) references backstay.collection (tenant_id, name) on delete cascade
);
create unique index collection_space_building on backstay.collection_space (tenant_id, collection)
    where state = 'building';
select backstay.fence('collection_space');

create policy moving on backstay.space for select to backstay_app
    using (exists (select from backstay.collection_space m where m.space_id = space.id));
