drop table backstay.job_result_part;
drop table backstay.job_result;
