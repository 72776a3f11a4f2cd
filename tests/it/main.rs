//! All whole-program tests, in one binary so that linking is paid once.
mod capture;
