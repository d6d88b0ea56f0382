drop table backstay.ledger;
drop table backstay.hold;
drop table backstay.call;
drop table backstay.budget_window;
drop table backstay.budget;
drop table backstay.gateway_process;
