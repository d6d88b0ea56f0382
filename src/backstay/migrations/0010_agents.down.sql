-- phase: contract
drop table backstay.answer;
