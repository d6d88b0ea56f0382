-- name: bump
-- Counts a change. Changes of one tenant's catalogue wait for each other here, so that limits hold.
insert into backstay.catalog_revision (tenant_id, revision, changed_at) values (%(tenant_id)s, 1, %(now)s)
on conflict (tenant_id) do update
set revision = backstay.catalog_revision.revision + 1, changed_at = excluded.changed_at
returning revision;

-- name: revisions
-- How far the catalogues of these tenants have come; a tenant that has changed nothing yet has no row.
select tenant_id, revision from backstay.catalog_revision where tenant_id = any(%(tenant_ids)s::uuid[]);

-- name: routes
-- Routes by name, in the order of bytes.
select name, definition, revision, created_at, updated_at from backstay.route
where tenant_id = %(tenant_id)s and (%(after)s::text is null or name collate "C" > %(after)s::text)
order by name collate "C" limit %(limit)s;

-- name: route
-- One route.
select name, definition, revision, created_at, updated_at from backstay.route
where tenant_id = %(tenant_id)s and name = %(name)s;

-- name: put_route
-- Makes a route or takes the place of one.
insert into backstay.route (tenant_id, name, definition, revision, created_at, updated_at)
values (%(tenant_id)s, %(name)s, %(definition)s, 1, %(now)s, %(now)s)
on conflict (tenant_id, name) do update
set definition = excluded.definition, revision = backstay.route.revision + 1, updated_at = excluded.updated_at
returning name, definition, revision, created_at, updated_at;

-- name: delete_route
-- Removes a route.
delete from backstay.route where tenant_id = %(tenant_id)s and name = %(name)s;

-- name: count_routes
-- How many a tenant has.
select count(*) from backstay.route where tenant_id = %(tenant_id)s;

-- name: accounts
-- Accounts by name, in the order of bytes.
select name, kind, base_url, options, revision, created_at, updated_at from backstay.provider_account
where tenant_id = %(tenant_id)s and (%(after)s::text is null or name collate "C" > %(after)s::text)
order by name collate "C" limit %(limit)s;

-- name: account
-- One account.
select name, kind, base_url, options, revision, created_at, updated_at from backstay.provider_account
where tenant_id = %(tenant_id)s and name = %(name)s;

-- name: put_account
-- Makes an account or changes one; its secrets stay. Counts as a change also when only a secret has changed.
insert into backstay.provider_account (tenant_id, name, kind, base_url, options, revision, created_at, updated_at)
values (%(tenant_id)s, %(name)s, %(kind)s, %(base_url)s, %(options)s, 1, %(now)s, %(now)s)
on conflict (tenant_id, name) do update
set kind = excluded.kind, base_url = excluded.base_url, options = excluded.options,
    revision = backstay.provider_account.revision + 1, updated_at = excluded.updated_at
returning name, kind, base_url, options, revision, created_at, updated_at;

-- name: delete_account
-- Removes an account with its secrets.
delete from backstay.provider_account where tenant_id = %(tenant_id)s and name = %(name)s;

-- name: count_accounts
-- How many a tenant has.
select count(*) from backstay.provider_account where tenant_id = %(tenant_id)s;

-- name: secrets
-- The sealed secrets of these accounts (null: of all), newest first.
select id, account, sealed, last4, set_at, ends_at from backstay.provider_secret
where tenant_id = %(tenant_id)s and (%(accounts)s::text[] is null or account = any(%(accounts)s::text[]))
order by account, set_at desc, id desc;

-- name: add_secret
-- A sealed secret of an account.
insert into backstay.provider_secret (tenant_id, account, id, sealed, last4, set_at)
values (%(tenant_id)s, %(account)s, %(id)s, %(sealed)s, %(last4)s, %(now)s);

-- name: end_secrets
-- Ends the secrets that stand, at a moment; one that ends before that anyway does so.
update backstay.provider_secret set ends_at = %(at)s
where tenant_id = %(tenant_id)s and account = %(account)s and (ends_at is null or ends_at > %(at)s);

-- name: drop_ended
-- Removes secrets that nobody uses any more.
delete from backstay.provider_secret
where tenant_id = %(tenant_id)s and account = %(account)s and ends_at <= %(now)s;

-- name: delete_secret
-- Removes one secret.
delete from backstay.provider_secret where tenant_id = %(tenant_id)s and account = %(account)s and id = %(id)s;

-- name: prices
-- Prices, oldest first.
select id, pattern, input, output, cached, written, written_hour, input_audio, output_audio, web_search,
       starts_at, ends_at, created_at
from backstay.price_override
where tenant_id = %(tenant_id)s and (%(after)s::uuid is null or id > %(after)s::uuid)
order by id limit %(limit)s;

-- name: price
-- One price.
select id, pattern, input, output, cached, written, written_hour, input_audio, output_audio, web_search,
       starts_at, ends_at, created_at
from backstay.price_override where tenant_id = %(tenant_id)s and id = %(id)s;

-- name: put_price
-- Makes a price, or takes the place of the one with its id; nothing when another has its pattern and start.
insert into backstay.price_override
    (tenant_id, id, pattern, input, output, cached, written, written_hour, input_audio, output_audio, web_search,
     starts_at, ends_at, created_at)
select %(tenant_id)s, %(id)s, %(pattern)s, %(input)s::numeric, %(output)s::numeric, %(cached)s::numeric,
       %(written)s::numeric, %(written_hour)s::numeric, %(input_audio)s::numeric, %(output_audio)s::numeric,
       %(web_search)s::numeric, %(starts_at)s::timestamptz, %(ends_at)s::timestamptz, %(now)s::timestamptz
where not exists (select from backstay.price_override p
    where p.tenant_id = %(tenant_id)s and p.pattern = %(pattern)s and p.starts_at = %(starts_at)s::timestamptz
      and p.id <> %(id)s)
on conflict (tenant_id, id) do update
set pattern = excluded.pattern, input = excluded.input, output = excluded.output, cached = excluded.cached,
    written = excluded.written, written_hour = excluded.written_hour, input_audio = excluded.input_audio,
    output_audio = excluded.output_audio, web_search = excluded.web_search, starts_at = excluded.starts_at, ends_at = excluded.ends_at
returning id, pattern, input, output, cached, written, written_hour, input_audio, output_audio, web_search,
          starts_at, ends_at, created_at;

-- name: delete_price
-- Removes a price.
delete from backstay.price_override where tenant_id = %(tenant_id)s and id = %(id)s;

-- name: count_prices
-- How many a tenant has.
select count(*) from backstay.price_override where tenant_id = %(tenant_id)s;

-- name: required_tags
-- The tags that a tenant asks of its callers; a tenant that has never said so has no row.
select tags from backstay.required_tags where tenant_id = %(tenant_id)s;

-- name: require_tags
-- Sets them.
insert into backstay.required_tags (tenant_id, tags, changed_at) values (%(tenant_id)s, %(tags)s::text[], %(now)s)
on conflict (tenant_id) do update set tags = excluded.tags, changed_at = excluded.changed_at;
