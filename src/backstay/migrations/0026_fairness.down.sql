drop table backstay.job_start;
drop table backstay.job_limit;
drop table backstay.tenant_queue;
alter table backstay.queue drop column seconds;
alter table backstay.queue drop column starts;
drop index backstay.job_running_limit;
drop index backstay.job_flow;
alter table backstay.job_done drop column limit_key;
alter table backstay.job drop column limit_key;
