alter table backstay.price_override drop column web_search;
alter table backstay.ledger drop column web_searches;
