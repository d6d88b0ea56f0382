drop function backstay.record_steps(json);
