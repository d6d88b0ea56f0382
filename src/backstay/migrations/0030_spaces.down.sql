drop policy moving on backstay.space;
drop table backstay.collection_space;
