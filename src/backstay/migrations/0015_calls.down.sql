alter table backstay.ledger
    drop column written_tokens,
    drop column written_hour_tokens,
    drop column input_audio_tokens,
    drop column output_audio_tokens,
    drop column input_image_tokens,
    drop column output_image_tokens;
alter table backstay.call
    drop column route,
    drop column cached,
    drop column saved_by_cache,
    drop column saved_by_route,
    drop column rescued;
delete from backstay.call where kind = 'count';
alter table backstay.call drop constraint call_kind_check;
alter table backstay.call add constraint call_kind_check check (kind in ('chat', 'embed'));
