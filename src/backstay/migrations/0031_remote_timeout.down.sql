alter table backstay.remote_job drop column timeout_seconds;
