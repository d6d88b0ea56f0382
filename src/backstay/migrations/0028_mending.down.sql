alter table backstay.run
    drop column forked_step,
    drop column forked_from,
    drop column undoing,
    drop column failed_step;
