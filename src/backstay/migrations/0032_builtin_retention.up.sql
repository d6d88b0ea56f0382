-- phase: expand
-- What retention looks for: runs and calls by their end.

create index run_ended on backstay.run (tenant_id, finished_at) where state in ('completed', 'failed', 'cancelled');
create index call_ended on backstay.call (tenant_id, finished_at) where state <> 'open';
