drop index backstay.run_children;
alter table backstay.run
    drop column cancel_reason,
    drop column deadline,
    drop column parent_seq,
    drop column parent_id;
