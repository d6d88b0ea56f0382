drop table backstay.cached_answer;
