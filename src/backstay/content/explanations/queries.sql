-- name: documents
-- Documents of a collection.
select count(*) from backstay.content d
where d.tenant_id = %(tenant)s::uuid and d.collection = %(collection)s::text;

-- name: passing
-- Documents that a filter lets through.
select count(*)
from (select %(tenant)s::uuid as tenant_id) own
join backstay.content d on d.tenant_id = own.tenant_id
where d.collection = %(collection)s::text and d.body @> %(contains)s::jsonb
  and (%(path)s::jsonpath is null
       or jsonb_path_match(d.body, %(path)s::jsonpath, %(values)s::jsonb, true));
