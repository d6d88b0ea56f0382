drop table backstay.recent_output;
alter table backstay.budget_window drop column told;

-- Limits end with the release that knows them. The fence is forced on the owner too, so it is lifted for a moment.
alter table backstay.budget no force row level security;
alter table backstay.hold no force row level security;
delete from backstay.hold h using backstay.budget b
where h.tenant_id = b.tenant_id and h.budget_id = b.id and b.unit <> 'usd';
delete from backstay.budget where unit <> 'usd';
alter table backstay.budget force row level security;
alter table backstay.hold force row level security;

alter table backstay.budget
    drop constraint budget_tenant_id_scope_subject_unit_period_key,
    drop column unit,
    add unique (tenant_id, scope, subject, period);
