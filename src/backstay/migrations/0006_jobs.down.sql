drop function backstay.keep_job_partitions(date, integer, date);
drop table backstay.queue;
drop table backstay.worker;
drop table backstay.blob;
drop table backstay.job_done;
drop table backstay.job;
drop sequence backstay.worker_fence;
