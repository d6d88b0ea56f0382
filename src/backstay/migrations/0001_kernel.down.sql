drop table backstay.cache;
drop table backstay.idempotency;
drop function backstay.fence(text);
