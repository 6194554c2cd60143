//! Hash tables on the way of each write. What is hashed is keys of documents as well, so the hash is seeded, but
//! it need not withstand who sees the table.

use std::collections::HashMap;

pub(crate) type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
