drop function backstay.tuned(text, jsonb);
