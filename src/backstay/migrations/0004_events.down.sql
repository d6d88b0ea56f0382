drop table backstay.outbox;
