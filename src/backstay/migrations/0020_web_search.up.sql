-- phase: expand
-- Web searches that providers make for an answer and bill by the request.

alter table backstay.ledger add column web_searches bigint not null default 0;

-- USD per 1,000 requests; null: the listed fee.
alter table backstay.price_override add column web_search numeric check (web_search >= 0);
