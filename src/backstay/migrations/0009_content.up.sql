-- phase: expand
-- Content: documents, chunks, spaces and their vectors, what is still to be embedded, statistics of BM25.

-- One embedding model's vectors for collections of one name and chunking. Tenants with equal definitions share it;
-- its rows lie in backstay.vec_<id>, fenced by tenant. `dimensions` stays empty until the model has answered once.
create table backstay.space (
    id               bigint generated always as identity primary key,
    collection       text not null,
    model            text not null,
    chunker_revision text not null,
    dimensions       int check (dimensions between 1 and 16000),
    state            text not null default 'active' check (state in ('building', 'active', 'retired')),
    indexed_at       timestamptz,
    created_at       timestamptz not null,
    unique (collection, model, chunker_revision)
);

-- `chunks`, `length` and `pivot` are written by the folding job only, so writers of documents never meet here.
create table backstay.collection (
    tenant_id  uuid not null,
    name       text not null,
    space_id   bigint references backstay.space (id),
    fields     text[] not null,
    by_code    boolean not null,
    format     text not null check (format in ('markdown', 'plain')),
    chunk_size int not null check (chunk_size between 100 and 8000),
    overlap    int not null check (overlap between 0 and chunk_size / 2),
    chunks     bigint not null default 0,
    length     bigint not null default 0,
    pivot      real not null,
    created_at timestamptz not null,
    primary key (tenant_id, name)
);
comment on column backstay.collection.space_id is 'Whose vectors are searched; null: text search only.';
comment on column backstay.collection.fields is 'Fields of the body that are searched; empty: every text in it.';
comment on column backstay.collection.by_code is 'A Python function makes the searched text, so only that program may write.';
comment on column backstay.collection.length is 'Terms in all folded chunks together.';
comment on column backstay.collection.pivot is 'Mean chunk length that BM25 weights are normalised by.';
select backstay.fence('collection');

-- A tenant sees the spaces that its collections use, and no names of other tenants' collections.
alter table backstay.space enable row level security;
alter table backstay.space force row level security;
create policy used on backstay.space for select to backstay_app
    using (exists (select from backstay.collection c where c.space_id = space.id));
create policy system on backstay.space to backstay_system using (true) with check (true);
create policy owner on backstay.space to backstay_owner using (true) with check (true);
grant select on backstay.space to backstay_app;
grant select, insert, update on backstay.space to backstay_system;

create table backstay.content (
    tenant_id   uuid not null,
    collection  text not null,
    id          text not null,
    rev         bigint not null,
    body        jsonb not null,
    body_hash   bytea not null,
    text_hash   bytea not null,
    created_at  timestamptz not null,
    updated_at  timestamptz not null,
    archived_at timestamptz,
    primary key (tenant_id, collection, id)
);
select backstay.fence('content');

-- A chunk's text never changes: another text is another chunk. So a vector made of it can come late, never wrong.
create table backstay.chunk (
    tenant_id  uuid not null,
    id         uuid not null,
    collection text not null,
    content_id text not null,
    ord        int not null,
    heading    text[] not null,
    text       text not null,
    text_hash  bytea not null,
    length     int not null,
    tokens     int not null,
    pivot      real not null,
    bm         public.sparsevec(1000000000) not null,
    primary key (tenant_id, id),
    foreign key (tenant_id, collection, content_id) references backstay.content (tenant_id, collection, id)
        on delete cascade
);
comment on column backstay.chunk.length is 'Terms in the chunk, as BM25 counts them.';
comment on column backstay.chunk.tokens is 'Estimated model tokens.';
comment on column backstay.chunk.pivot is 'The collection''s pivot when the weights in bm were made.';
-- Text search reads every weight of a collection and few texts.
alter table backstay.chunk alter column bm set storage main;
create index chunk_content on backstay.chunk (tenant_id, collection, content_id);
create index chunk_pivot on backstay.chunk (tenant_id, collection, pivot);
select backstay.fence('chunk');

-- One request to an embedder, written before it is sent: a crash between answer and vectors leaves `asked` behind.
create table backstay.embed_call (
    tenant_id   uuid not null,
    id          uuid not null,
    space_id    bigint not null,
    job_id      uuid not null,
    state       text not null check (state in ('asked', 'written', 'failed', 'lost')),
    inputs      int not null,
    tokens      int not null,
    cost        numeric,
    error       text,
    asked_at    timestamptz not null,
    finished_at timestamptz,
    primary key (tenant_id, id)
);
comment on column backstay.embed_call.tokens is 'Estimated while asked, then what the provider counted.';
create index embed_call_asked on backstay.embed_call (tenant_id, job_id) where state = 'asked';
select backstay.fence('embed_call');

-- Chunks that wait for their vector. `call_id` is the request that carries one now; `error` parks one for good.
create table backstay.embed_pending (
    tenant_id  uuid not null,
    space_id   bigint not null,
    chunk_id   uuid not null,
    text_hash  bytea not null,
    tokens     int not null,
    since      timestamptz not null,
    call_id    uuid,
    expires_at timestamptz,
    error      text,
    primary key (tenant_id, space_id, chunk_id),
    foreign key (tenant_id, chunk_id) references backstay.chunk (tenant_id, id) on delete cascade
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index embed_pending_chunk on backstay.embed_pending (tenant_id, chunk_id);
create index embed_pending_due on backstay.embed_pending (tenant_id, space_id, since) where error is null;
select backstay.fence('embed_pending');

-- Document frequency of each term, folded.
create table backstay.bm_term (
    tenant_id  uuid not null,
    collection text not null,
    term       int not null,
    chunks     bigint not null,
    primary key (tenant_id, collection, term)
) with (fillfactor = 80);
select backstay.fence('bm_term');

-- What each write changed in the statistics: rows are only added, so writers never wait for each other. A job folds
-- them into bm_term and collection; readers add up both.
create table backstay.bm_delta (
    tenant_id  uuid not null,
    collection text not null,
    id         uuid not null,
    chunks     bigint not null,
    length     bigint not null,
    terms      int[] not null,
    counts     int[] not null,
    primary key (tenant_id, collection, id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
select backstay.fence('bm_delta');

-- The pattern of every vec_<space>, and what their queries are checked against. It holds no rows.
create table backstay.vec_template (
    tenant_id uuid not null,
    chunk_id  uuid not null,
    text_hash bytea not null,
    e         public.halfvec not null,
    primary key (tenant_id, chunk_id)
);
select backstay.fence('vec_template');

-- Finds or makes the space of a definition. The app role may neither write nor search all of backstay.space.
create function backstay.take_space(of_collection text, of_model text, of_chunker text, at timestamptz)
returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    found_id bigint;
begin
    -- Looked for first and last: an insert that meets a row would lock it, and every writer comes through here once.
    for attempt in 1..3 loop
        select id into found_id from backstay.space
            where collection = of_collection and model = of_model and chunker_revision = of_chunker;
        exit when found_id is not null;
        insert into backstay.space (collection, model, chunker_revision, created_at)
            values (of_collection, of_model, of_chunker, at)
            on conflict (collection, model, chunker_revision) do nothing
            returning id into found_id;
        exit when found_id is not null;
    end loop;
    return found_id;
end
$$;
revoke execute on function backstay.take_space(text, text, text, timestamptz) from public;
grant execute on function backstay.take_space(text, text, text, timestamptz) to backstay_app, backstay_system;

-- Makes backstay.vec_<space> for vectors of that many dimensions, once. Runs as the owner, because no other role may
-- create tables. Returns the dimensions that the space has, which are others when another process was first.
create function backstay.create_space_table(of_space bigint, of_dimensions int)
returns int language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '5s' as $$
declare
    standing int;
    target text := 'vec_' || of_space;
begin
    if of_dimensions not between 1 and 16000 then
        raise exception 'a vector has 1 to 16000 dimensions, not %', of_dimensions using errcode = 'data_exception';
    end if;
    -- Not `for update`: a collection that was just declared keeps a share in its space until it is committed.
    select dimensions into standing from backstay.space where id = of_space for no key update;
    if not found then
        raise exception 'there is no space %', of_space using errcode = 'no_data_found';
    end if;
    if standing is not null then
        return standing;
    end if;
    execute format('create table backstay.%I (like backstay.vec_template including all)', target);
    execute format('alter table backstay.%I alter column e type public.halfvec(%s)', target, of_dimensions);
    -- Vectors out of line would make an exact scan several times slower; beyond this size they do not fit a page.
    if of_dimensions <= 4000 then
        execute format('alter table backstay.%I alter column e set storage plain', target);
    end if;
    perform backstay.fence(target);
    update backstay.space set dimensions = of_dimensions where id = of_space;
    return of_dimensions;
end
$$;
revoke execute on function backstay.create_space_table(bigint, int) from public;
grant execute on function backstay.create_space_table(bigint, int) to backstay_system;
