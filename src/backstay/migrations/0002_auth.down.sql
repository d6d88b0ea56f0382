drop table backstay.api_key;
drop table backstay.principal;
drop table backstay.tenant;
