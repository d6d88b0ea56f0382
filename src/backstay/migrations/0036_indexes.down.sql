drop table backstay.space_build;
alter table backstay.collection_space drop column filled_at;
alter table backstay.space drop column index_wish, drop column index_kind, drop column index_lists,
    drop column index_rows, drop column index_seconds;
