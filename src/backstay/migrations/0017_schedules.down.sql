drop table backstay.schedule_fire;
drop table backstay.schedule;
