drop table backstay.price_override;
drop table backstay.provider_secret;
drop table backstay.provider_account;
drop table backstay.route;
drop table backstay.catalog_revision;
