use std::time::Instant; use std::sync::mpsc; use sherd_engine::*; use bytes::Bytes;
fn main(){
 let dir=std::path::PathBuf::from(std::env::args().nth(1).unwrap());
 let n: u64=std::env::args().nth(2).unwrap().parse().unwrap();
 let t=Instant::now();
 let (e,r)=Engine::open(&dir,Options::default()).unwrap();
 println!("open {:?} {:?} docs {}",t.elapsed(),r,e.stat().documents);
 if n==0 {return;}
 e.execute(Command::Assign(Assignment{cluster:"c".into(),name:"s".into(),hash_method:"md5".into(),epoch:1,ranges:vec![(0,10_000_000)],limit:u64::MAX})).unwrap();
 e.execute(Command::CreateIndex{id:1,name:"i".into()}).unwrap();
 let t=Instant::now();
 let (tx,rx)=mpsc::channel();
 let mut inflight=0;
 for i in 0..n {
   let h=i.wrapping_mul(0x9E3779B97F4A7C15)>>20; let key=format!("key:{i:012}");
   let tx=tx.clone();
   e.submit(Command::Mutate{mutations:vec![Mutation::Write{index:1,key:Key{position:(h%10_000_000) as u32,bytes:Bytes::from(key)},document:Bytes::from(vec![b'x';128]),condition:Condition::Absent}],atomic:false},Box::new(move|r|{r.unwrap();tx.send(()).unwrap();}));
   inflight+=1;
   if inflight>=512 { rx.recv().unwrap(); inflight-=1; while rx.try_recv().is_ok(){inflight-=1;} }
 }
 while inflight>0 {rx.recv().unwrap(); inflight-=1;}
 println!("wrote {n} in {:?} = {:.0}/s", t.elapsed(), n as f64/t.elapsed().as_secs_f64());
 println!("{:?}", e.stat());
 std::process::abort();
}
