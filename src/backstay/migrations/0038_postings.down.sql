drop table backstay.bm_posting;
drop table backstay.bm_segment;
alter table backstay.bm_delta drop column added;
alter table backstay.collection drop column gathered;
