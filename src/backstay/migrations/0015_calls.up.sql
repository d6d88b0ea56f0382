-- phase: expand
-- Calls that count tokens only, the route that a call took, what was saved, and tokens of every kind.

alter table backstay.call drop constraint call_kind_check;
alter table backstay.call add constraint call_kind_check check (kind in ('chat', 'embed', 'count'));

-- `saved_by_cache`, `saved_by_route`: USD that the call would have cost more without its cache, and by the dearest target
-- of its route. `rescued`: another target answered when the first one asked did not.
alter table backstay.call
    add column route text,
    add column cached text check (cached in ('exact', 'semantic')),
    add column saved_by_cache numeric not null default 0,
    add column saved_by_route numeric not null default 0,
    add column rescued boolean not null default false;

alter table backstay.ledger
    add column written_tokens bigint not null default 0,
    add column written_hour_tokens bigint not null default 0,
    add column input_audio_tokens bigint not null default 0,
    add column output_audio_tokens bigint not null default 0,
    add column input_image_tokens bigint not null default 0,
    add column output_image_tokens bigint not null default 0;
