-- FORCE would hide the rows from the owner, too.
alter table backstay.run no force row level security;
alter table backstay.step no force row level security;
alter table backstay.run_blob no force row level security;
update backstay.run r set input = b.body
from backstay.run_blob b where b.tenant_id = r.tenant_id and b.run_id = r.id and b.part = 'input';
update backstay.run r set output = b.body
from backstay.run_blob b where b.tenant_id = r.tenant_id and b.run_id = r.id and b.part = 'output';
delete from backstay.run where input is null; -- one that has lost its input cannot go on
update backstay.step s set output = b.body
from backstay.run_blob b
where b.tenant_id = s.tenant_id and b.run_id = s.run_id and b.part = 'step' and b.seq = s.seq;
alter table backstay.run force row level security;
alter table backstay.step force row level security;
drop table backstay.run_blob;
alter table backstay.run alter column input set not null;
