drop table backstay.signal;
