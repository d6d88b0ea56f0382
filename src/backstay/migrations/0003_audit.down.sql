drop table backstay.audit_payload;
drop table backstay.audit_key;
drop table backstay.audit_entry;
drop function backstay.refuse_change();
