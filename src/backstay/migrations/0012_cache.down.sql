alter table backstay.cache reset (fillfactor, autovacuum_vacuum_scale_factor);
alter table backstay.cache alter column value set storage default;
