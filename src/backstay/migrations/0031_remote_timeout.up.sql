-- phase: expand
-- How long an attempt of a remote job may take; null: as long as its worker lives.
alter table backstay.remote_job add column timeout_seconds float8;
