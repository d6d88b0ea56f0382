drop table backstay.step;
drop table backstay.run;
