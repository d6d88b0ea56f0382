-- phase: expand
-- The cache is in use now: how its rows are laid out.

-- What is cached is mostly sealed, so trying to compress it is work for nothing. A count is updated in place (its end
-- stays, so no index changes) and needs room on its page for that.
alter table backstay.cache alter column value set storage external;
alter table backstay.cache set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
