drop table backstay.enriched;
drop table backstay.enrichment;
