-- phase: contract
drop table backstay.stream_event;
drop table backstay.stream;
