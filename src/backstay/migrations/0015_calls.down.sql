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

-- Calls of kinds that the release before does not know. The fence is forced on the owner too, so it is lifted for a moment.
alter table backstay.call no force row level security;
delete from backstay.call where kind not in ('chat', 'embed');
alter table backstay.call force row level security;
alter table backstay.call drop constraint if exists call_kind_check;
alter table backstay.call add constraint call_kind_check check (kind in ('chat', 'embed'));
