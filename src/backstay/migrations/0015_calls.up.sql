-- phase: expand
-- Calls that only count tokens.
alter table backstay.call drop constraint call_kind_check;
alter table backstay.call add constraint call_kind_check check (kind in ('chat', 'embed', 'count'));
