drop table backstay.required_tags;
