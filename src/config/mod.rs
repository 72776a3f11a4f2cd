//! Settings: what the config file and the environment say, as typed values.

pub mod duration;
