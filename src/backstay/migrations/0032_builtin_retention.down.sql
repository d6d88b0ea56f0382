drop index backstay.call_ended;
drop index backstay.run_ended;
