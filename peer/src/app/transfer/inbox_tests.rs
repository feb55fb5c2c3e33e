//! The folder for received files against hostile names, links, and what is there already.
