-- name: add
-- The answer of a run; there is one.
insert into backstay.answer (
    tenant_id, run_id, stream_id, outcome, question, collection, model, text, sources, search_mode, input_tokens,
    output_tokens, cost, created_at)
values (
    %(tenant)s::uuid, %(run_id)s::uuid, %(stream_id)s::uuid, %(outcome)s::text, %(question)s::text,
    %(collection)s::text, %(model)s::text, %(text)s::text, %(sources)s::jsonb, %(search_mode)s::text,
    %(input_tokens)s::bigint, %(output_tokens)s::bigint, %(cost)s::numeric, %(created_at)s::timestamptz);

-- name: get
-- The answer of one run.
select run_id, stream_id, outcome, question, collection, model, text, sources, search_mode, input_tokens, output_tokens,
       cost, created_at
from backstay.answer
where tenant_id = %(tenant)s::uuid and run_id = %(run)s::uuid;
