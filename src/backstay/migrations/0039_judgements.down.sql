drop table backstay.judgement;
