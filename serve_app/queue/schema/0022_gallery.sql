-- compatible since 1
-- Thumbnails, the words of prompts, and favourites. The version before makes none of them, and
-- recomputes outcomes that it could share, since it counts the thumbnails among their files.

-- thumbnail_of: key of the file that this one is a small image of; null: an output.
ALTER TABLE artifacts ADD COLUMN thumbnail_of text;
