alter table backstay.machine_instance drop constraint machine_instance_history;
drop table backstay.machine_transition;
drop table backstay.machine_instance;
drop table backstay.machine_rule;
drop table backstay.machine_state;
drop table backstay.machine;
drop function backstay.check_machine_transition();
drop function backstay.check_machine_instance();
drop function backstay.register_machine(jsonb, bytea, timestamptz);
